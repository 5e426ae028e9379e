// TeX's names of symbols, for math.js.

const table = (text) => new Map(text.trim().split(/\s+/).map((pair) => pair.split("=")));

/** Letters: set as identifiers. */
export const LETTERS = table(`
  alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ lambda=λ mu=μ
  nu=ν xi=ξ omicron=ο pi=π varpi=ϖ rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω
  Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω
  infty=∞ partial=∂ nabla=∇ hbar=ℏ ell=ℓ Re=ℜ Im=ℑ aleph=ℵ emptyset=∅ varnothing=∅ angle=∠ degree=° triangle=△
  square=□ imath=ı jmath=ȷ wp=℘ checkmark=✓ prime=′ top=⊤ bot=⊥
`);

/** Operators and relations. */
export const OPERATORS = table(`
  times=× cdot=⋅ div=÷ pm=± mp=∓ ast=∗ star=⋆ circ=∘ bullet=∙ oplus=⊕ otimes=⊗ odot=⊙ ominus=⊖ cup=∪ cap=∩
  setminus=∖ wedge=∧ land=∧ vee=∨ lor=∨ neg=¬ lnot=¬ le=≤ leq=≤ leqslant=⩽ ge=≥ geq=≥ geqslant=⩾ ne=≠ neq=≠ ll=≪ gg=≫
  equiv=≡ approx=≈ sim=∼ simeq=≃ cong=≅ propto=∝ in=∈ notin=∉ ni=∋ subset=⊂ subseteq=⊆ supset=⊃ supseteq=⊇ mid=∣
  nmid=∤ parallel=∥ perp=⊥ forall=∀ exists=∃ nexists=∄ to=→ rightarrow=→ leftarrow=← Rightarrow=⇒ Leftarrow=⇐
  leftrightarrow=↔ Leftrightarrow=⇔ iff=⟺ implies=⟹ impliedby=⟸ mapsto=↦ longrightarrow=⟶ longleftarrow=⟵ uparrow=↑
  downarrow=↓ hookrightarrow=↪ therefore=∴ because=∵ ldots=… dots=… cdots=⋯ vdots=⋮ ddots=⋱ colon=: prec=≺ succ=≻
  vdash=⊢ models=⊨ asymp=≍ doteq=≐ triangleq=≜ coloneqq=≔ lvert=| rvert=| vert=| lVert=‖ rVert=‖ Vert=‖ langle=⟨
  rangle=⟩ lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ lbrace={ rbrace=} backslash=\\
`);

/** Large operators; those in UNDER take their limits below and above in displayed formulas. */
export const LARGE = table(`
  sum=∑ prod=∏ coprod=∐ int=∫ iint=∬ iiint=∭ oint=∮ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigvee=⋁ bigwedge=⋀
`);
export const UNDER = new Set(
  "sum prod coprod bigcup bigcap bigoplus bigotimes bigvee bigwedge lim limsup liminf max min sup inf argmax argmin gcd det Pr"
    .split(" "),
);

/** Functions: set upright. */
export const FUNCTIONS = new Set(
  ("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp lim limsup liminf max min sup inf " +
    "argmax argmin gcd lcm det dim ker deg arg hom Pr").split(" "),
);

export const ACCENTS = table("hat=^ widehat=^ bar=¯ vec=→ dot=˙ ddot=¨ tilde=~ widetilde=~ overrightarrow=→ check=ˇ");
export const SPACES = table(",=0.167em :=0.222em >=0.222em ;=0.278em !=-0.167em quad=1em qquad=2em enspace=0.5em thinspace=0.167em");

const ALPHABETS = {
  mathbb: { upper: 0x1d538, lower: 0x1d552, digit: 0x1d7d8, but: "C=ℂ H=ℍ N=ℕ P=ℙ Q=ℚ R=ℝ Z=ℤ" },
  mathbf: { upper: 0x1d400, lower: 0x1d41a, digit: 0x1d7ce, but: "" },
  mathcal: { upper: 0x1d49c, lower: 0x1d4b6, but: "B=ℬ E=ℰ F=ℱ H=ℋ I=ℐ L=ℒ M=ℳ R=ℛ e=ℯ g=ℊ o=ℴ" },
  mathfrak: { upper: 0x1d504, lower: 0x1d51e, but: "C=ℭ H=ℌ I=ℑ R=ℜ Z=ℨ" },
};
ALPHABETS.boldsymbol = ALPHABETS.mathbf;
ALPHABETS.bm = ALPHABETS.mathbf;
ALPHABETS.mathscr = ALPHABETS.mathcal;

/** Whether `command` sets its argument in another alphabet. */
export const isAlphabet = (command) => Object.hasOwn(ALPHABETS, command);

/** `text` in the alphabet of `command` (\mathbb, ...), where Unicode has it. */
export function inAlphabet(command, text) {
  const { upper, lower, digit, but } = ALPHABETS[command];
  const exceptions = table(but || "=");
  return [...text].map((char) => {
    if (exceptions.has(char)) return exceptions.get(char);
    const code = char.charCodeAt(0);
    if (/^[A-Z]$/.test(char)) return String.fromCodePoint(upper + code - 65);
    if (/^[a-z]$/.test(char)) return String.fromCodePoint(lower + code - 97);
    return digit && /^\d$/.test(char) ? String.fromCodePoint(digit + code - 48) : char;
  }).join("");
}
