// Talking to the gateway: fetch, server-sent events, errors.

/** What the server answered instead of a reply. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Feed it the stream's text piece by piece; `onData` gets the data of each event. Comments are skipped. */
export function eventParser(onData) {
  let rest = "";
  return (text) => {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) onData(line.slice(5).trim());
  };
}

async function failure(response) {
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not our JSON: a proxy's page, perhaps; the status must do
  }
  return new ApiError(response.status, message, Number(response.headers.get("retry-after")) || null);
}

const headers = (key) => ({ "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) });

/** The models on offer. */
export async function models(key) {
  const response = await fetch("v1/models", { headers: headers(key), signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw await failure(response);
  return (await response.json()).data;
}

/** Send `body` and hand each chunk of the reply to `onChunk`; aborting `signal` stops the work on the server too. */
export async function streamChat(body, { key, signal, onChunk }) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(key),
    signal,
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  if (!response.ok) throw await failure(response);
  let done = false;
  const parse = eventParser((data) => {
    if (data === "[DONE]") {
      done = true;
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(Number(chunk.error.status) || 500, chunk.error.message);
    onChunk(chunk);
  });
  const decoder = new TextDecoder();
  for (const reader = response.body.getReader(); ;) {
    const { value, done: ended } = await reader.read();
    if (ended) break;
    parse(decoder.decode(value, { stream: true }));
  }
  if (!done) throw new ApiError(0, "the connection broke before the reply was complete");
}
