#!/usr/bin/env sh
# Start with 10% to the new revision
kubectl patch ksvc web-app --type merge -p '
{
  "spec": {
    "traffic": [
      {"revisionName": "web-app-v1", "percent": 90},
      {"revisionName": "web-app-v2", "percent": 10}
    ]
  }
}'
