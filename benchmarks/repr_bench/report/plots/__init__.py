"""Pictures of the results, as SVG."""
