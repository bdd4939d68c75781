"""Studies, annotations and pictures into the workspace: from folders, archives, a PACS or a public bucket."""
