"""Programs that run in the sandbox beside a candidate's kernel, and what they share with the verifier."""
