#!/usr/bin/env sh
# If metrics look good, increase to 50%
kubectl patch ksvc web-app --type merge -p '
{
  "spec": {
    "traffic": [
      {"revisionName": "web-app-v1", "percent": 50},
      {"revisionName": "web-app-v2", "percent": 50}
    ]
  }
}'
