"""Files of the sandbox: the verbs, and how whole files and trees come and go."""
