# The server and its workers. The image carries the CUDA build of PyTorch unless TORCH=cpu is given as a build argument.
FROM python:3.12-slim

ARG TORCH=
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY tuner ./tuner
COPY storage ./storage
COPY api ./api
RUN if [ "$TORCH" = cpu ]; then \
        pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu; \
    fi \
    && pip install --no-cache-dir -c constraints.txt '.[postgres]' \
    && useradd --create-home tuner && mkdir /data /checkpoints && chown tuner /data /checkpoints
USER tuner
ENV TUNER_DATA_DIR=/data
EXPOSE 8700
ENTRYPOINT ["tuner"]
CMD ["serve", "--host", "0.0.0.0", "--no-worker"]
