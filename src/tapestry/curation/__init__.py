"""Text made fit for training, step by step: languages, quality, duplicates, personal data, contamination.

It is given documents and gives documents; it reads no corpus folder and has no network. What each step did is
counted and becomes the dataset's lineage.
"""
