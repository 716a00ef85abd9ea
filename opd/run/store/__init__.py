"""What a run leaves behind and finds again."""
