// Building the page. Text always becomes a text node: nothing that a model or a user wrote is ever parsed as HTML.

const MATHML = "http://www.w3.org/1998/Math/MathML";

/** An HTML element. `props`: class, text, data, on (event handlers), or attributes (true: present, null: left out). */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "on") for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A node of the trees that markdown.js, math.js and highlight.js make: a string, or {tag, attrs, children}. */
export function build(tree, namespace = null) {
  if (typeof tree === "string") return document.createTextNode(tree);
  const inner = tree.tag === "math" ? MATHML : namespace;
  const node = inner ? document.createElementNS(inner, tree.tag) : document.createElement(tree.tag);
  for (const [name, value] of Object.entries(tree.attrs)) node.setAttribute(name, value);
  node.append(...tree.children.map((child) => build(child, inner)));
  return node;
}

/** Replace what `container` holds by `trees`. */
export function show(container, trees) {
  container.replaceChildren(...trees.map((tree) => build(tree)));
}

/** A tree node; see build. */
export function node(tag, attrs = {}, children = []) {
  return { tag, attrs, children };
}
