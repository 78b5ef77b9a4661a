"""How does a word feel: terrible, bad, good or wonderful?"""
