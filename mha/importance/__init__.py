"""How much each head matters: `score`, and the criteria that it scores with."""
