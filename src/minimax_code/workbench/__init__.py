"""What is done to code without a model: it is run in a sandbox, changed, searched, analysed and tested."""
