"""A trainer for Wan 2.2 S2V 14B on Ray: picture and speech to video of that person speaking, by LoRA."""
