"""What a generator draws: is the forgotten gone from its samples, and are those of the rest as good as they were?"""
