"""What agents can do: each tool checks its arguments, says how far it reaches, and runs on the agent's own files."""
