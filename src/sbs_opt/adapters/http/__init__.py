"""The router over HTTP; needs the extra `serve`."""
