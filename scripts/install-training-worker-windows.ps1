#Requires -Version 5.1
<#
.SYNOPSIS
Installs a training worker on this PC, enrols it, and starts it at every boot.

.DESCRIPTION
An operator's "cis490-jobs invite HOST" prints the command. It may be run again at any moment: what is right stays,
newer code takes the old one's place after the worker has given its job back. The guide is
docs/guides/add-a-windows-host.md.

.PARAMETER Receiver
Address of the receiver.
.PARAMETER HostName
Name to enrol under, the one of the invite.
.PARAMETER Code
One-time code of the invite; left out, it comes from the variable CIS490_INVITE or is asked for.
.PARAMETER CaSha256
Fingerprint of the receiver's certificate authority.
.PARAMETER Dataset
NAME=FOLDER of a dataset; several separated by commas. Later runs keep what was given.
.PARAMETER Python
The python.exe to use, 3.11 or newer and installed for all users.
.PARAMETER WithoutTrainer
Leaves out the packages of the project's own trainer.
.PARAMETER Pause
Stops the worker and keeps it stopped, over reboots as well, until -Resume.
.PARAMETER Resume
Lets a paused worker work again.
.PARAMETER Uninstall
Removes task, code and secret; settings and runs stay.
.PARAMETER Purge
With -Uninstall: removes settings and runs as well.
.PARAMETER DryRun
Prints every change and makes none.

.EXAMPLE
powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1 -Receiver https://receiver.example:8445 -HostName gpu-tower -Code CODE
.EXAMPLE
powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1 -Uninstall
#>
[CmdletBinding()]
param(
    [string]$Receiver = '',
    [string]$HostName = '',
    [string]$Code = '',
    [string]$CaSha256 = '',
    [string[]]$Dataset = @(),
    [string]$Python = '',
    [switch]$WithoutTrainer,
    [switch]$Pause,
    [switch]$Resume,
    [switch]$Uninstall,
    [switch]$Purge,
    [Alias('WhatIf')]
    [switch]$DryRun
)

function Invoke-Installer {
    Set-StrictMode -Version Latest
    $ErrorActionPreference = 'Stop'
    $PSNativeCommandUseErrorActionPreference = $false
    $TaskName = 'cis490-training-worker'
    $Root = Join-Path -Path $env:ProgramFiles -ChildPath 'cis490'
    $State = Join-Path -Path $env:ProgramData -ChildPath 'cis490'
    $Work = Join-Path -Path $State -ChildPath 'worker'
    $Log = Join-Path -Path $State -ChildPath 'worker.log'
    $Settings = Join-Path -Path $State -ChildPath 'worker.toml'
    $Secret = Join-Path -Path $State -ChildPath 'worker.secret'
    $Dataset = @($Dataset | ForEach-Object { $_ -split ',' } | Where-Object { $_ }) # -File hands over one text
    $Dataset = @($Dataset | ForEach-Object { $_ -replace '\\$', '\.' }) # a backslash before a quote would take it along
    try {
        Assert-Choice
        Assert-Elevated
        if ($Uninstall) { Uninstall-Worker }
        elseif ($Pause) { Stop-Worker }
        elseif ($Resume) { Resume-Worker }
        else { Install-Worker }
    }
    catch {
        Exit-With 1 "$_ (line $($_.InvocationInfo.ScriptLineNumber)); what was done so far stays; mend it and run the same command again"
    }
}

function Exit-With {
    param([int]$Status, [string]$Message)
    [Console]::Error.WriteLine("install-training-worker-windows: $Message")
    exit $Status
}

# Announce a change; false in a dry run.
function Test-Change {
    param([string]$What)
    if ($DryRun) {
        Write-Host "would $What"
        return $false
    }
    Write-Host $What
    return $true
}

function Assert-Choice {
    $chosen = @(@($Uninstall, $Pause, $Resume) | Where-Object { $_ })
    if ($chosen.Count -gt 1) { Exit-With 2 'found more than one of -Uninstall, -Pause, -Resume; expected one of them' }
    if ($Purge -and -not $Uninstall) { Exit-With 2 'found -Purge alone; expected -Uninstall with it' }
    foreach ($item in $Dataset) {
        if ($item -notmatch '^[^="]+=[^="]+$') { Exit-With 2 "found -Dataset $item; expected NAME=FOLDER" }
    }
}

function Assert-Elevated {
    $me = New-Object -TypeName Security.Principal.WindowsPrincipal -ArgumentList ([Security.Principal.WindowsIdentity]::GetCurrent())
    if ($DryRun -or $me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) { return }
    Exit-With 77 'found a session without administrator rights; right-click Start, choose Terminal (Admin) or Windows PowerShell (Admin), and run the same command there'
}

function Install-Worker {
    $base = Find-Python
    $source = Find-Source
    $isNew = $null -eq (Get-WorkerTask)
    if ($isNew -and -not (Test-Path -LiteralPath $Settings) -and -not ($Receiver -and $HostName)) {
        Exit-With 2 'this PC is not enrolled and no -Receiver and -HostName are given; have an operator run "cis490-jobs invite HOST" and run the command it prints'
    }
    Initialize-Folder
    $changed = Update-Program $base $source
    Register-Identity
    if ($isNew -or $changed) { Test-Worker }
    if ($changed -and -not $DryRun) { Set-Content -LiteralPath "$Root\installed.txt" -Value $changed -Encoding ASCII }
    Install-Task
    Start-Worker
}

# ---- Python and code ------------------------------------------------------------------------------------------------

function Find-Python {
    $names = @('py', 'python')
    if ($Python) { $names = @($Python) }
    foreach ($name in $names) {
        $found = Get-Command -Name $name -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
        if ($null -eq $found -or $found.Source -like '*\WindowsApps\*') { continue }
        $said = & $found.Source '-c' 'import sys; print(sys.version_info >= (3, 11)); print(sys.executable); print(sys.base_prefix)'
        if ($LASTEXITCODE -ne 0 -or @($said).Count -ne 3 -or $said[0] -ne 'True') { continue }
        Assert-ForAllUsers $said[2]
        return $said[1]
    }
    Exit-With 78 "found no Python 3.11 or newer under $($names -join ', ') (the one of the Microsoft Store does not count: a service cannot start it); install one for all users from python.org, or name its python.exe with -Python"
}

# The task's account cannot read what lies in somebody's profile.
function Assert-ForAllUsers {
    param([string]$Prefix)
    $profiles = Split-Path -Path $env:PUBLIC -Parent
    if ($Prefix -like "$profiles\*") {
        Exit-With 78 "found Python in $Prefix, where only its user can read it; expected one for all users; run its installer again with 'Install Python for all users', or name another python.exe with -Python"
    }
}

function Find-Source {
    $checkout = Split-Path -Path $PSScriptRoot -Parent
    if (Test-Path -LiteralPath "$checkout\training\fleet\worker") { return $checkout }
    Exit-With 78 "found no folder training beside the folder of this script ($checkout); expected a checkout; fetch the project whole and run the command in it"
}

# Bring interpreter, packages and code up to date and return what marks them, or nothing when they are that already. The
# caller keeps the mark once the worker has tested itself, so that a run that ended before begins anew.
function Update-Program {
    param([string]$Base, [string]$Source)
    $wanted = Get-Digest "$Source\training"
    if (-not $WithoutTrainer) { $wanted += Get-Digest "$Source\requirements\trainer.txt" }
    $stamp = "$Root\installed.txt"
    if ((Test-Path -LiteralPath $stamp) -and (Get-Content -LiteralPath $stamp -Raw).Trim() -eq $wanted) { return '' }
    Stop-Worker
    if (-not (Test-Change "install interpreter, packages and code below $Root")) { return $wanted }
    [void](New-Item -ItemType Directory -Force -Path $Root)
    if (Test-Path -LiteralPath $stamp) { Remove-Item -LiteralPath $stamp -Force }
    if (-not (Test-Path -LiteralPath "$Root\venv\Scripts\python.exe")) { Invoke-Program $Base @('-m', 'venv', "$Root\venv") }
    if (-not $WithoutTrainer) { Install-Package "$Source\requirements\trainer.txt" }
    Remove-Tree "$Root\code"
    [void](New-Item -ItemType Directory -Force -Path "$Root\code")
    Copy-Item -LiteralPath "$Source\training" -Destination "$Root\code" -Recurse
    return $wanted
}

function Get-Digest {
    param([string]$Path)
    $files = Get-ChildItem -LiteralPath $Path -Recurse -File | Where-Object { $_.Extension -ne '.pyc' } | Sort-Object -Property FullName
    $lines = $files | ForEach-Object { $_.Name + (Get-FileHash -LiteralPath $_.FullName -Algorithm SHA256).Hash }
    $bytes = [Text.Encoding]::UTF8.GetBytes($lines -join ' ')
    return [BitConverter]::ToString([Security.Cryptography.SHA256]::Create().ComputeHash($bytes))
}

function Install-Package {
    param([string]$Requirements)
    Invoke-Program "$Root\venv\Scripts\python.exe" @('-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', '--require-hashes', '--no-deps', '--only-binary', ':all:', '-r', $Requirements)
}

function Invoke-Program {
    param([string]$Program, [string[]]$Words)
    & $Program $Words | Out-Host
    if ($LASTEXITCODE -ne 0) { Exit-With $LASTEXITCODE "$Program $($Words[0..2] -join ' ') ended with status $LASTEXITCODE; see above for the reason, mend it, and run the same command again" }
}

# ---- folders, identity, self-test -----------------------------------------------------------------------------------

# Accounts go by number, because their names are translated: the system, administrators, and Local Service.
function Initialize-Folder {
    if (-not (Test-Change "make $State, for the system, administrators and the task's account alone")) { return }
    Assert-OwnFolder $State
    [void](New-Item -ItemType Directory -Force -Path $State)
    Invoke-Program 'icacls.exe' @($State, '/setowner', '*S-1-5-32-544', '/Q')
    Invoke-Program 'icacls.exe' @($State, '/inheritance:r', '/grant:r', '*S-1-5-18:(OI)(CI)F', '*S-1-5-32-544:(OI)(CI)F', '*S-1-5-19:(OI)(CI)M', '/Q')
    [void](New-Item -ItemType Directory -Force -Path $Work)
}

# Every user may make a folder in ProgramData. In one that somebody made before, or behind a link, they would keep what
# rights they gave themselves, and the rights of what the link leads to would be changed.
function Assert-OwnFolder {
    param([string]$Path)
    if (-not (Test-Path -LiteralPath $Path)) { return }
    $owner = (Get-Acl -LiteralPath $Path).Sddl # O:BA is for administrators, SY for the system, LS for Local Service
    if ([IO.File]::GetAttributes($Path) -notmatch 'ReparsePoint' -and $owner -match '^O:(BA|SY|LS)G:') { return }
    Exit-With 78 "found $Path, which is a link or was made by another account; expected none, or a folder of the administrators; look at what it holds, move it away, and run the same command again"
}

function Register-Identity {
    if (-not $Receiver) { return }
    if (-not (Test-Change "enrol as $HostName at $Receiver")) { return }
    $words = @('enrol', '--receiver', $Receiver, '--host', $HostName, '--settings-file', $Settings, '--secret-file', $Secret, '--ca-file', "$State\ca.pem")
    if ($CaSha256) { $words += @('--ca-sha256', $CaSha256) }
    if ($Code) { $env:CIS490_INVITE = $Code }
    try { Invoke-Worker $words }
    finally { Remove-Item -LiteralPath 'Env:CIS490_INVITE' -ErrorAction SilentlyContinue }
    # What enrol wrote belongs to whoever ran it; the worker must read it and put new ones in its place.
    foreach ($file in @($Secret, $Settings, "$State\ca.pem", "$State\worker.pem")) {
        if (Test-Path -LiteralPath $file) {
            Invoke-Program 'icacls.exe' @($file, '/inheritance:r', '/grant:r', '*S-1-5-18:F', '*S-1-5-32-544:F', '*S-1-5-19:M', '/Q')
        }
    }
}

# Run it in a folder that only administrators write to: what lies in the worker's own must not run with their rights.
function Test-Worker {
    if (-not (Test-Change 'have the worker test itself')) { return }
    $words = @('--self-test', '--config', $Settings, '--work-dir', "$Root\self-test", '--trainer-dir', "$Root\code")
    foreach ($item in Get-Dataset) { $words += @('--dataset', $item) }
    if ($WithoutTrainer) {
        Write-Host 'Without the packages of the own trainer the next lines say FAIL for trainer and libraries; other trainers run.'
        Push-Location -LiteralPath "$Root\code"
        & "$Root\venv\Scripts\python.exe" '-m' 'training.fleet.worker' $words | Out-Host
        Pop-Location
        return
    }
    Invoke-Worker $words
}

function Invoke-Worker {
    param([string[]]$Words)
    Push-Location -LiteralPath "$Root\code"
    try { Invoke-Program "$Root\venv\Scripts\python.exe" (@('-m', 'training.fleet.worker') + $Words) }
    finally { Pop-Location }
}

# What was given now, else what an earlier run was given; kept where only administrators write.
function Get-Dataset {
    $kept = "$Root\datasets.txt"
    if ($Dataset.Count -gt 0) {
        if (-not $DryRun) { Set-Content -LiteralPath $kept -Value $Dataset -Encoding UTF8 }
        return $Dataset
    }
    if (Test-Path -LiteralPath $kept) { return @(Get-Content -LiteralPath $kept -Encoding UTF8) }
    return @()
}

# ---- the task -------------------------------------------------------------------------------------------------------

function Get-WorkerTask {
    return Get-ScheduledTask -TaskName $TaskName -ErrorAction SilentlyContinue
}

function Install-Task {
    $words = "-m training.fleet.worker --config `"$Settings`" --work-dir `"$Work`" --log-file `"$Log`""
    foreach ($item in Get-Dataset) { $words += " --dataset `"$item`"" }
    $task = Get-WorkerTask
    if ($null -ne $task -and $task.Actions[0].Arguments -eq $words -and $task.State -ne 'Disabled') { return }
    if ($null -ne $task -and $task.State -ne 'Disabled') { Stop-Worker }
    if (-not (Test-Change "register the task $TaskName, which starts the worker at boot")) { return }
    $action = New-ScheduledTaskAction -Execute "$Root\venv\Scripts\python.exe" -Argument $words -WorkingDirectory "$Root\code"
    $boot = New-ScheduledTaskTrigger -AtStartup
    $again = New-ScheduledTaskTrigger -Once -At (Get-Date) -RepetitionInterval (New-TimeSpan -Minutes 5)
    $who = New-ScheduledTaskPrincipal -UserId 'S-1-5-19' -LogonType ServiceAccount -RunLevel Limited
    $how = New-ScheduledTaskSettingsSet -ExecutionTimeLimit ([TimeSpan]::Zero) -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) -StartWhenAvailable -MultipleInstances IgnoreNew -Priority 6
    [void](Register-ScheduledTask -TaskName $TaskName -Action $action -Trigger @($boot, $again) -Principal $who -Settings $how -Force)
}

function Start-Worker {
    $task = Get-WorkerTask
    if ($null -ne $task -and $task.State -eq 'Running') {
        Write-Host 'The worker runs already.'
        return
    }
    if (-not (Test-Change 'start the worker')) { return }
    $before = Get-LastStart
    Start-ScheduledTask -TaskName $TaskName
    for ($second = 0; $second -lt 120; $second++) {
        if ((Get-LastStart) -ne $before) {
            Write-Host "The worker runs. Its log is $Log; 'cis490-jobs workers' lists it."
            return
        }
        Start-Sleep -Seconds 1
    }
    Exit-With 1 "the task was started, and within 120 s the worker did not say so in $Log; look there, and at 'Last Run Result' of $TaskName in the Task Scheduler"
}

# The line is compared, not counted, because a long log begins anew when a worker starts.
function Get-LastStart {
    $last = ''
    if (-not (Test-Path -LiteralPath $Log)) { return $last }
    foreach ($found in @(Select-String -LiteralPath $Log -Pattern ' worker started ' -SimpleMatch)) { $last = "$($found.LineNumber) $($found.Line)" }
    return $last
}

# Ask the worker by its stop file to give its job back, and end it when it does not within its own limits.
function Stop-Worker {
    $task = Get-WorkerTask
    if ($null -eq $task) { return }
    if (-not (Test-Change 'stop the worker; its job goes back to the queue')) { return }
    [void](Disable-ScheduledTask -TaskName $TaskName)
    if ($task.State -ne 'Running' -and -not (Test-Running)) { return } # one stopped and not waited for is Disabled
    [void](New-Item -ItemType File -Force -Path "$Work\stop")
    for ($second = 0; $second -lt 120; $second++) {
        if (-not (Test-Running)) { break }
        Start-Sleep -Seconds 1
    }
    # For one that heeds nothing, and for one that has only begun: it has no lock yet, and takes the file for an old one.
    Stop-ScheduledTask -TaskName $TaskName -ErrorAction SilentlyContinue
}

# A disabled task says so instead of Running; the lock of the work folder tells whether a worker lives.
function Test-Running {
    try { [IO.File]::Open("$Work\lock", 'Open', 'ReadWrite', 'None').Dispose() }
    catch [IO.FileNotFoundException] { return $false }
    catch [IO.IOException] { return $true }
    return $false
}

function Resume-Worker {
    if ($null -eq (Get-WorkerTask)) { Exit-With 78 'found no installed worker to resume; install it with the command of an invite' }
    if (-not (Test-Change 'let the worker work again')) { return }
    [void](Enable-ScheduledTask -TaskName $TaskName)
    Start-Worker
}

function Uninstall-Worker {
    Stop-Worker
    if ($null -ne (Get-WorkerTask) -and (Test-Change "remove the task $TaskName")) { Unregister-ScheduledTask -TaskName $TaskName -Confirm:$false }
    Remove-Folder $Root
    foreach ($file in @($Secret, "$Secret.new", "$State\worker.pem")) {
        if ((Test-Path -LiteralPath $file) -and (Test-Change "remove $file")) { Remove-Item -LiteralPath $file -Force }
    }
    if ($Purge) { Remove-Folder $State }
    Write-Host "The worker is removed. Have an operator run 'cis490-jobs worker revoke' with this host's name."
}

function Remove-Folder {
    param([string]$Path)
    if ((Test-Path -LiteralPath $Path) -and (Test-Change "remove $Path")) { Remove-Tree $Path }
}

# .NET deletes a link and leaves alone what it leads to; Remove-Item of PowerShell 5.1 may follow it. What a worker worked
# in or ran is held until the process is gone, which is a moment after its lock is free.
function Remove-Tree {
    param([string]$Path)
    for ($second = 0; $second -lt 20; $second++) {
        if (-not (Test-Path -LiteralPath $Path)) { return }
        try { [IO.Directory]::Delete($Path, $true) }
        catch [IO.IOException] { Start-Sleep -Seconds 1 }
        catch [UnauthorizedAccessException] { Start-Sleep -Seconds 1 }
    }
    if (Test-Path -LiteralPath $Path) { [IO.Directory]::Delete($Path, $true) }
}

Invoke-Installer
