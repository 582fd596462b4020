"""What this bundle needs beside the library."""
