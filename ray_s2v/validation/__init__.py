"""Looking at what is learnt: videos made from a picture, a prompt and speech."""
