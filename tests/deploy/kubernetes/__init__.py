"""Manifests for Kubernetes: kustomize, Helm and KServe."""
