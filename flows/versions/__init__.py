"""What a version is made of and what is said of it: files, tracking, figures, model card."""
