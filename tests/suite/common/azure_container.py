"""Makes the container `bucket` in azurite: azure_container.py PORT KEY. Exits with 0 when it is there."""

import base64
import email.utils
import hashlib
import hmac
import http.client
import sys

port, key = int(sys.argv[1]), base64.b64decode(sys.argv[2])
account, path = "devstoreaccount1", "/devstoreaccount1/bucket"
headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
signed = "\n".join(f"{name}:{headers[name]}" for name in sorted(headers))
text = "PUT" + "\n" * 12 + f"{signed}\n/{account}{path}\nrestype:container"
signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
headers["Authorization"] = f"SharedKey {account}:{signature}"
try:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("PUT", f"{path}?restype=container", headers=headers)
    sys.exit(connection.getresponse().status not in (201, 409))
except OSError:
    sys.exit(1)
