"""What may pass the door, and under which name: pseudonyms, the confidentiality profile, burned-in text."""
