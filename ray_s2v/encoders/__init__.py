"""The frozen networks: video, sound and text to what the model is trained on. No Ray."""
