"""The routes of files: content, trees, uploads, searches, watches."""
