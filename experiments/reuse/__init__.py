"""How many updates is a batch of rollouts good for?"""
