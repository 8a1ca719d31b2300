"""What the tutorial says of depth, initialisation and normalisation, measured on CIFAR-10.

``python -m repr_models.studies run NAME… --data DIR`` trains, ``table`` and ``plot`` show the records.
"""
