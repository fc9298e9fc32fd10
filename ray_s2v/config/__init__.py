"""Every setting of a job, one class a section. What a file of them may look like is in job_file.py."""
