"""Programs that run in the sandbox, in the interpreter of the code that they run. They import nothing of ours."""
