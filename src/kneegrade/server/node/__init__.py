"""The DICOM node: `node_process` runs it, `node_service` answers, `node_server` and `node_limits` keep its limits."""
