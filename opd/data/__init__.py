"""What feeds it: tasks, prompts, tokenizers and verifiers."""
