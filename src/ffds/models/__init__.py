"""Networks: a backbone that makes features and a head that classifies them."""
