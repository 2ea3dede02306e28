"""A bucket with versions and an object lock, and users with the policies of docs/deploy/s3; then what a thief with a host's keys does.

locked_bucket.py serve PORT             moto, which takes any checksum for the one that a locked bucket asks for, as S3 says that it does.
locked_bucket.py make ENDPOINT DOCS     makes bucket and users; prints their keys as JSON. The server asks for signatures after 14 requests.
locked_bucket.py rob ENDPOINT ID SECRET as that user: tries to delete, to unlock and to overwrite everything; prints what was allowed.
"""
import json
import sys
import time

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError

ADMIN = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def client(kind, endpoint, key="nobody", secret="nothing"):
    return boto3.client(kind, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key,
                        aws_secret_access_key=secret)


def serve(port):
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = DomainDispatcherApplication(create_backend_app)

    def with_checksums(environ, start):
        # "Content-MD5 OR x-amz-checksum- HTTP header is required": moto looks for the header that an SDK sends beside it.
        if "HTTP_X_AMZ_CHECKSUM_SHA256" in environ:
            environ["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = "SHA256"
        return app(environ, start)

    run_simple("127.0.0.1", int(port), with_checksums, threaded=True)


def make(endpoint, docs):
    s3, iam = client("s3", endpoint), client("iam", endpoint)
    for _ in range(300):
        try:
            s3.create_bucket(Bucket="bucket", ObjectLockEnabledForBucket=True)
            break
        except EndpointConnectionError:
            time.sleep(0.1)
    s3.put_object_lock_configuration(Bucket="bucket", ObjectLockConfiguration={
        "ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}}})
    keys = {}
    for name in ("host", "reader", "keeper", "admin"):
        policy = json.dumps(ADMIN) if name == "admin" else open(f"{docs}/{name}.json").read().replace("BUCKET", "bucket")
        if name == "keeper":
            # Of a request that deletes many S3 asks for the right to each key; moto for that to the bucket, and for none to the keys.
            policy = json.loads(policy)
            policy["Statement"].append({"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::bucket"})
            policy = json.dumps(policy)
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys[name] = {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    print(json.dumps(keys))


def rob(endpoint, key, secret):
    s3, iam = client("s3", endpoint, key, secret), client("iam", endpoint, key, secret)
    allowed, denied = [], []

    def attempt(what, deed):
        try:
            deed()
            allowed.append(what)
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("AccessDenied", "MethodNotAllowed", "403"), (what, error)
            denied.append(what)

    objects = [item["Key"] for item in s3.list_objects_v2(Bucket="bucket")["Contents"]]
    attempt("policy", lambda: s3.put_bucket_policy(Bucket="bucket", Policy=json.dumps(ADMIN)))
    # S3 suspends no versions of a bucket with a lock, whoever asks (InvalidBucketState); moto does, for who may.
    if "policy" in denied:
        attempt("versioning", lambda: s3.put_bucket_versioning(
            Bucket="bucket", VersioningConfiguration={"Status": "Suspended"}))
    attempt("users", lambda: iam.list_users())
    for name in objects:
        version = s3.head_object(Bucket="bucket", Key=name)["VersionId"]
        attempt("delete version", lambda: s3.delete_object(Bucket="bucket", Key=name, VersionId=version))
        attempt("delete", lambda: s3.delete_object(Bucket="bucket", Key=name))
    for name in objects[::2]:
        attempt("overwrite", lambda: s3.put_object(Bucket="bucket", Key=name, Body=b"junk", ChecksumAlgorithm="SHA256"))
    count = {what: [allowed.count(what), denied.count(what)] for what in sorted({*allowed, *denied})}
    print(json.dumps({"objects": len(objects), "allowed_denied": count}))


if __name__ == "__main__":
    {"serve": serve, "make": make, "rob": rob}[sys.argv[1]](*sys.argv[2:])
