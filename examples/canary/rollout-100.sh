#!/usr/bin/env sh
# Complete the rollout to 100%
kubectl patch ksvc web-app --type merge -p '
{
  "spec": {
    "traffic": [
      {"revisionName": "web-app-v2", "percent": 100}
    ]
  }
}'
