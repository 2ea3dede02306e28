"""A server that takes mail (aiosmtpd) and appends what it got to a file, a JSON line each. Prints its port when it listens.

Usage: mail_server.py FILE [CERTIFICATE KEY USER PASSWORD]; with a certificate it demands STARTTLS and the password.
"""
import json
import ssl
import sys
import time

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

file, rest = sys.argv[1], sys.argv[2:]


class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "text": envelope.content.decode(),
                "tls": session.ssl is not None, "authenticated": session.authenticated}
        with open(file, "a") as out:
            out.write(json.dumps(mail) + "\n")
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and [data.login.decode(), data.password.decode()] == rest[2:4]
    return AuthResult(success=good, handled=False)


options = {}
if rest:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(rest[0], rest[1])
    options = {"tls_context": context, "require_starttls": True, "authenticator": authenticate, "auth_required": True}
controller = Controller(Handler(), hostname="127.0.0.1", port=0, ready_timeout=30, **options)
# The library connects to the port that it was given, to see that it listens: one is found for it.
import socket

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    controller.port = probe.getsockname()[1]
controller.start()
print(controller.port, flush=True)
while True:
    time.sleep(3600)
