#!/usr/bin/env python3
"""The container's health check: exit code 0 when the path given, or /livez, answers 200 on the port in PORT."""

import http.client
import os
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["PORT"]), timeout=2)
try:
    connection.request("GET", sys.argv[1] if sys.argv[1:] else "/livez")
    sys.exit(connection.getresponse().status != http.HTTPStatus.OK)
except OSError as error:
    sys.exit(f"no answer: {error}")
