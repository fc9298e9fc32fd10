"""The Ray cluster: joining it, what it has and can get, what a job asks of it, and what is waited for."""
