"""Serving reconcilers: service, configuration, revision, route, labeler, serverlessservice."""
