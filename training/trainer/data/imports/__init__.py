"""Imports public data into the dataset contract: `python -m training.trainer.datasets import {smd,nslkdd,csv}`.

Each importer knows one layout and gives a `Source`: a declaration and a stream of rows. `folder` writes it whole, reads
it back as the trainer would, and computes the digest.
"""
