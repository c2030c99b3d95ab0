"""Reads Kubernetes objects from standard input, holds each against its schema, and prints them as JSON."""

import json
import sys

import kubernetes_validate
import yaml

objects = [one for one in yaml.safe_load_all(sys.stdin) if one]
for one in objects:
    # The Prometheus operator's own kind has no schema here.
    if one["apiVersion"] != "monitoring.coreos.com/v1":
        kubernetes_validate.validate(one, sys.argv[1], strict=True)
print(json.dumps(objects))
