"""Jobs that outlive the process that started them: their workers, and the handle that their user has."""
