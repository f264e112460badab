"""The processes of a job: how they find, await and agree with each other."""
