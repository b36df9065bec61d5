raise ImportError("a file of the package itself is never loaded as a method")
