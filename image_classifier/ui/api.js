// Calls of the service. Addresses are relative to /ui/, so a prefix of a proxy does not matter.

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Fetch JSON; throws an ApiError with the code of the service's table of errors. */
export async function ask(address, options = {}) {
  const { answer } = await exchange(address, options);
  return answer;
}

/** As `ask`, with the answer's headers and the milliseconds it took. */
export async function exchange(address, options = {}) {
  const begun = performance.now();
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new ApiError(0, "unreachable", "");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, body.error?.code ?? "unreachable", body.error?.message ?? "");
  return { answer: body, headers: response.headers, milliseconds: performance.now() - begun };
}
