"""A model that answers over HTTP: FastAPI, uvicorn and Ray Serve, which nothing else imports."""
