# The HTTP service with one exported model inside: no network at run time, no root.
#   docker build --build-arg BUNDLE=dist/camembert -t presseco .
#   docker run --rm -p 8000:8000 --read-only --cap-drop ALL presseco
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:3.11-slim
ARG BUNDLE=dist/camembert
RUN useradd --system --uid 10001 --no-create-home presseco
COPY --from=build /venv /venv
COPY ${BUNDLE} /model
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER 10001
EXPOSE 8000
# A damaged bundle fails the build here, not the service later.
RUN ["python", "-c", "from presseco import Classifier; print(Classifier.load('/model').precision)"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
# Exec form: presseco is process 1, gets SIGTERM itself and ends gracefully.
ENTRYPOINT ["presseco", "serve", "--model", "/model", "--host", "0.0.0.0", "--port", "8000"]
