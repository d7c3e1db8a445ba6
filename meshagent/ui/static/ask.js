// Questions to the server. The session is kept for this origin alone and ends with the server's process.

const SESSION = "session";

/** What went wrong, in the server's words. */
export class Problem extends Error {
  constructor(data, status) {
    super(data.message || "the server gave no reason");
    this.code = data.code ?? "";
    this.nextStep = data.next_step ?? "";
    this.status = status;
  }
}

/** Use up the link's token, if the address has one; the address forgets it at once. */
export async function enter() {
  const token = location.hash.startsWith("#enter=") ? location.hash.slice("#enter=".length) : "";
  if (!token) return;
  history.replaceState(null, "", "#/topology");
  const { session } = await ask("enter", { token });
  localStorage.setItem(SESSION, session);
}

/** The answer to a question. Throws Problem. */
export async function ask(name, asked = {}) {
  const session = localStorage.getItem(SESSION);
  const headers = { "Content-Type": "application/json", ...(session ? { Authorization: `Bearer ${session}` } : {}) };
  let answer;
  try {
    answer = await fetch(`/api/${name}`, { method: "POST", headers, body: JSON.stringify(asked) });
  } catch {
    throw new Problem(
      { message: "meshagent ui does not answer", next_step: "is it still running in its terminal?" },
      0,
    );
  }
  const data = await answer.json();
  if (!answer.ok) throw new Problem(data, answer.status);
  return data;
}
