"""Does a picture that is enlarged in windows show them?"""
