"""What a member gains: shared base and private continued pre-training, against training alone."""
