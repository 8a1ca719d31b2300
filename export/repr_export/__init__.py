"""repr_export: from a trained network to an artifact; see `repr_export.pipeline.export`."""
