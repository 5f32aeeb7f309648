"""Deploy plain bash scripts to hosts over SSH."""
