"""rlaif_ray: reinforcement learning from an LLM's feedback, online and at scale, on Ray."""
