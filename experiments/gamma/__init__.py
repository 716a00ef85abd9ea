"""How much of the future should distillation credit?"""
